package services_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func name(namespace, deployment, service string) services.Name {
	return services.Name{DeploymentRef: wire.DeploymentRef{Namespace: namespace, Name: deployment}, Service: service}
}

func TestFind(t *testing.T) {
	t.Parallel()
	all := []services.Name{name("shop", "web", "front"), name("shop", "web", "db"), name("shop", "api", "db"), name("lab", "api", "db"), name("shop", "web", "db")}
	for text, want := range map[string]string{
		"front":          "shop/web/front",
		"web/front":      "shop/web/front",
		"shop/web/front": "shop/web/front",
		"shop_web_front": "shop/web/front",
		"web/db":         "shop/web/db",
		"db":             `"db": more than one service has this name: choose one of lab/api/db, shop/api/db, shop/web/db`,
		"api/db":         `"api/db": more than one service has this name: choose one of lab/api/db, shop/api/db`,
		"ront":           `"ront": no such service on this device; it has lab/api/db, shop/api/db, shop/web/db, shop/web/front`,
		"x/shop/web/db":  `"x/shop/web/db": no such service on this device; it has lab/api/db, shop/api/db, shop/web/db, shop/web/front`,
		"":               `"": no such service on this device; it has lab/api/db, shop/api/db, shop/web/db, shop/web/front`,
	} {
		got, err := services.Find(text, all)
		said := got.String()
		if err != nil {
			said = err.Error()
		}
		if said != want {
			t.Errorf("%q: %s, want %s", text, said, want)
		}
	}
	if _, err := services.Find("db", nil); !errors.Is(err, services.ErrUnknown) || err.Error() != `"db": no such service on this device, which has none at present` {
		t.Error(err)
	}
}

func TestAnErrorListsFewNames(t *testing.T) {
	t.Parallel()
	var many []services.Name
	for n := range 1000 {
		many = append(many, name("shop", "web", fmt.Sprint("a", n)))
	}
	if _, err := services.Find(strings.Repeat("x", 10<<10), many); !errors.Is(err, services.ErrUnknown) || len(err.Error()) > 1000 || !strings.HasSuffix(err.Error(), ", and 980 more") {
		t.Error(err)
	}
}
