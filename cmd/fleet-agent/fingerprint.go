package main

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func newFingerprint(f flags) *cobra.Command {
	return &cobra.Command{
		Use:   "fingerprint",
		Short: "Print the fingerprint of this device's key",
		Long: `Print the fingerprint of this device's key. Whoever approves the device compares
it with what fleet-server device approve shows. While an enrollment waits, its
key is printed as well.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, log, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			return printFingerprints(cmd.OutOrStdout(), cfg, log)
		},
	}
}

func printFingerprints(out io.Writer, cfg config.Config, log *slog.Logger) error {
	state := store.View(cfg.StateDir, log)
	present, err := state.Identity()
	waiting, waits := state.PendingIdentity()
	if err != nil && (!waits || !errors.Is(err, store.ErrNoIdentity)) {
		return err
	}
	line := func(identity *store.Identity, note string) error {
		key, err := keyStorage(cfg).Load(identity.Key)
		if err != nil {
			return err
		}
		shown, err := fingerprint(key)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s %s%s\n", shown, identity.Device, note)
		return err
	}
	if present != nil {
		if err := line(present, ""); err != nil {
			return err
		}
	}
	if waits {
		return line(waiting, " (waits for approval)")
	}
	return nil
}

// fingerprint is the fingerprint of a key, as people compare it.
func fingerprint(key crypto.Signer) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("encoding the public key: %w", err)
	}
	return wire.ShowFingerprint(wire.Sum(spki).String()), nil
}
