package apiserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const secretboxKeySize = 32

// EnsureEncryptionConfig writes a Kubernetes encryption configuration with a
// new key to path unless the file exists: then it checks it. Secrets are
// encrypted with it from their first write on. The file has mode 0600.
func EnsureEncryptionConfig(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			_, err = encryptionconfig.LoadEncryptionConfig(context.Background(), path, false, "")
		}
		if err != nil {
			return fmt.Errorf("the key of Secrets cannot be read: restore %s from a backup: %w", path, err)
		}
		return nil
	}
	var key [secretboxKeySize]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("generating the encryption key: %w", err)
	}
	data, err := yaml.Marshal(encryptionConfig(key[:]))
	if err != nil {
		return fmt.Errorf("encoding the encryption configuration: %w", err)
	}
	return atomicfile.Write(path, data, 0o600)
}

// encryptionConfig has no identity provider: a secret that is not encrypted
// did not come from this server, and is refused.
func encryptionConfig(key []byte) *apiserverv1.EncryptionConfiguration {
	return &apiserverv1.EncryptionConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{
			Resources: []string{"secrets"},
			Providers: []apiserverv1.ProviderConfiguration{{
				Secretbox: &apiserverv1.SecretboxConfiguration{
					Keys: []apiserverv1.Key{{Name: "key1", Secret: base64.StdEncoding.EncodeToString(key)}},
				},
			}},
		}},
	}
}
