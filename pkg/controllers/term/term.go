// Package term takes the two numbers that order manifests across restarts of
// the controllers: the epoch, which identifies the API store, and the term,
// which rises at each start.
package term

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// The ConfigMap that holds epoch and term, in the server's namespace. Deleting it starts a new
// epoch: devices then hold what they run until an operator confirms.
const (
	Name = "fleet-controllers"

	epochKey = "epoch"
	termKey  = "term"
)

// ErrDamaged: the ConfigMap has values that were not written here.
var ErrDamaged = errors.New("ConfigMap " + Name + " is damaged")

// Term is one start of the controllers.
type Term struct {
	Epoch string `json:"epoch"`
	// Number begins at 1.
	Number uint64 `json:"number"`
}

// Take claims the next term by compare-and-swap. Of two controllers that
// start at once, each gets a number of its own. namespace is the server's. seen is the last term that is
// known from elsewhere than the API store, or zero: when the store is behind
// it, the store was restored from a backup, and a new epoch begins.
func Take(ctx context.Context, client kubernetes.Interface, namespace string, seen Term) (Term, error) {
	var t Term
	// AlreadyExists and Conflict both mean that somebody else was faster.
	faster := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultBackoff, faster, func() (err error) {
		t, err = take(ctx, client, namespace, seen)
		return err
	})
	if err != nil {
		return Term{}, fmt.Errorf("taking a term: %w", err)
	}
	return t, nil
}

func take(ctx context.Context, client kubernetes.Interface, namespace string, seen Term) (Term, error) {
	maps := client.CoreV1().ConfigMaps(namespace)
	cm, err := maps.Get(ctx, Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		t := Term{Epoch: uuid.NewString(), Number: 1}
		cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace}}
		t.store(cm)
		_, err := maps.Create(ctx, cm, metav1.CreateOptions{})
		return t, err
	}
	if err != nil {
		return Term{}, err
	}
	number, err := strconv.ParseUint(cm.Data[termKey], 10, 64)
	if err != nil || cm.Data[epochKey] == "" {
		return Term{}, fmt.Errorf("%w: delete it from namespace %s to begin a new epoch", ErrDamaged, namespace)
	}
	t := Term{Epoch: cm.Data[epochKey], Number: number + 1}
	if t.Epoch == seen.Epoch && t.Number <= seen.Number {
		t = Term{Epoch: uuid.NewString(), Number: 1}
	}
	t.store(cm)
	_, err = maps.Update(ctx, cm, metav1.UpdateOptions{})
	return t, err
}

func (t Term) store(cm *corev1.ConfigMap) {
	cm.Data = map[string]string{epochKey: t.Epoch, termKey: strconv.FormatUint(t.Number, 10)}
}
