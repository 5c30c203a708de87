package broker_test

import (
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/broker"
)

// NATS logs every text that bars a device, and the check sees when it does not.
func TestTextsOfNATSAreChecked(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	if err := broker.CheckCanaries(broker.Canaries()); err != nil {
		t.Fatal(err)
	}
	t.Logf("checked in %s", time.Since(begin))
	for _, text := range broker.Texts() {
		if _, checked := broker.Canaries()[text]; !checked && !broker.ByStrangers(text) {
			t.Errorf("%q bars devices, and nobody checks that NATS logs it", text)
		}
	}
}

func TestMissingTextIsAnError(t *testing.T) {
	t.Parallel()
	err := broker.CheckCanariesWithin(map[string]string{"Publish Violation of another wording": "PUB other 0\r\n\r\n"}, 100*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), `does not log "Publish Violation of another wording"`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error is %v", err)
	}
}
