package integration_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// applicant returns a simulated device that has not enrolled.
func (s *server) applicant(name, token string) *sim.Device {
	s.t.Helper()
	d, err := sim.New(sim.Config{Device: name, Token: token, Server: s.enrollURL(), Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil))})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func wantRefusal(t *testing.T, err error, code wire.RefusalCode, says string) {
	t.Helper()
	r, ok := errors.AsType[*wire.Refusal](err)
	if !ok || r.Code != code || !strings.Contains(r.Message, says) {
		t.Errorf("error is %v, want refusal %s that says %q", err, code, says)
	}
}

func TestEnrollmentIsRepeatableAndExclusive(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	d := s.applicant("edge-1", token)
	for range 2 {
		if err := d.Enroll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if uses := s.uses(token); uses != 1 {
		t.Errorf("uses are %d, want 1 for one key", uses)
	}
	wantRefusal(t, s.applicant("edge-1", token).Enroll(t.Context()), wire.RefusedNameTaken, "--name")
}

func TestBadTokensAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	good, err := wire.ParseToken(s.token(nil))
	if err != nil {
		t.Fatal(err)
	}
	wrong := good
	wrong.Secret[0]++
	wantRefusal(t, s.applicant("edge-1", wrong.Encode()).Enroll(t.Context()), wire.RefusedToken, "unknown")
	unknown := good
	unknown.ID = "nosuch"
	wantRefusal(t, s.applicant("edge-1", unknown.Encode()).Enroll(t.Context()), wire.RefusedToken, "unknown")
	foreign := good
	foreign.CAHash[0]++
	if err := s.applicant("edge-1", foreign.Encode()).Enroll(t.Context()); !errors.Is(err, enroll.ErrOtherServer) {
		t.Errorf("token of another server: %v", err)
	}
	s.editToken(good.ID, func(o *v1alpha1.EnrollmentToken) {
		o.Spec.ExpiresAt = new(metav1.NewTime(time.Now().Add(-time.Second)))
	})
	wantRefusal(t, s.applicant("edge-1", good.Encode()).Enroll(t.Context()), wire.RefusedToken, "expired")
	s.editToken(good.ID, func(o *v1alpha1.EnrollmentToken) {
		o.Spec.ExpiresAt, o.Spec.MaxUses = new(metav1.NewTime(time.Now().Add(time.Hour))), 1
	})
	if err := s.applicant("edge-1", good.Encode()).Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s.applicant("edge-2", good.Encode()).Enroll(t.Context()), wire.RefusedToken, "used up")
	if err := s.applicant("Edge.2", good.Encode()).Enroll(t.Context()); !errors.Is(err, wire.ErrNameInvalid) {
		t.Errorf("invalid name: %v", err)
	}
}

func TestApprovalLetsADeviceIn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.applicant("edge-1", s.tokenToApprove())
	done := make(chan error, 1)
	go func() { done <- d.Enroll(t.Context()) }()
	s.decide("edge-1", v1alpha1.RequestApproved)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := s.client().EnrollmentRequests().Get(t.Context(), "edge-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the answered request is still there: %v", err)
	}
}

// tokenToApprove creates a token whose devices wait for an operator.
func (s *server) tokenToApprove() string {
	s.t.Helper()
	return s.tokenOf(v1alpha1.EnrollmentTokenSpec{MaxUses: 1000})
}

func TestDenialIsAnEvent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, err := s.client().EnrollmentRequests().Create(t.Context(), &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Spec: v1alpha1.EnrollmentRequestSpec{KeyFingerprint: strings.Repeat("ab", 32)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.event("edge-1", v1alpha1.ReasonAwaitsOperator, "device approve edge-1")
	s.decide("edge-1", v1alpha1.RequestDenied)
	s.event("edge-1", v1alpha1.RequestDenied, "abab-abab")
}

// decide sets a condition of a request as an operator does, once it is there.
func (s *server) decide(name, condition string) {
	s.t.Helper()
	eventually(s.t, "deciding: "+condition, func() error {
		r, err := s.client().EnrollmentRequests().Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if condition == v1alpha1.RequestApproved {
			r.Status.ApprovedKeyFingerprint = r.Spec.KeyFingerprint
		}
		meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: "Test"})
		_, err = s.client().EnrollmentRequests().UpdateStatus(s.t.Context(), r, metav1.UpdateOptions{})
		return err
	})
}

func TestDeletedDeviceIsRevoked(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	d, stop := s.device(sim.Config{Device: "edge-1", Token: token})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	if err := s.client().Devices().Delete(t.Context(), "edge-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.keys()
	s.aggregate("default", "hello", counts{})
	eventually(t, "the object goes", func() error {
		_, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errStillThere
	})
	eventually(t, "the connection ends", func() error {
		if url, _ := d.Link().Server(); url != "" {
			return errStillThere
		}
		return nil
	})
	s.event("edge-1", "Revoked", "deleted")
	// Its last good manifest stays: nobody told it that nothing should run.
	runs(t, d, "default/hello")
	stop()

	// Neither a restart nor the same key with a good token lets it back in.
	s.stop()
	s.start()
	wantRefusal(t, d.Enroll(t.Context()), wire.RefusedRevoked, "revoked")
	// New hardware, or the same with a new key, may have the name.
	if err := s.applicant("edge-1", token).Enroll(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDeviceLabelsItselfOnlyWhereItsTokenAllows(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.device(sim.Config{
		Device: "edge-1", Token: s.token(map[string]string{"site": "x"}, "rack"),
		Labels: map[string]string{"rack": "r1", "group": "a", "site": "y", "bad": "not valid!", v1alpha1.LabelArch: "vax"},
	})
	s.create(deployment("hello", "a"))
	eventually(t, "labels", func() error {
		d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Labels["rack"] != "r1" {
			return errors.New("rack is not set")
		}
		if d.Labels["group"] != "" || d.Labels["site"] != "x" || d.Labels[v1alpha1.LabelArch] == "vax" {
			t.Errorf("labels are %v", d.Labels)
		}
		if d.Labels[v1alpha1.ReportedLabelPrefix+"group"] != "a" || d.Labels[v1alpha1.LabelDeviceID] != "edge-1" {
			t.Errorf("labels are %v", d.Labels)
		}
		return nil
	})
	s.aggregate("default", "hello", counts{})
	s.event("edge-1", "LabelsDropped", `"bad"`)
}

// event waits for an event about an object of the cluster.
func (s *server) event(object, reason, text string) {
	s.t.Helper()
	events := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Events("default")
	eventually(s.t, "event "+reason+" of "+object, func() error {
		list, err := events.List(s.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("events are %+v", list.Items)
	})
}

func (s *server) editToken(id string, change func(*v1alpha1.EnrollmentToken)) {
	s.t.Helper()
	eventually(s.t, "editing a token", func() error {
		o, err := s.client().EnrollmentTokens().Get(s.t.Context(), id, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(o)
		_, err = s.client().EnrollmentTokens().Update(s.t.Context(), o, metav1.UpdateOptions{})
		return err
	})
}
