package natschart

import (
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/natskeys"
)

// Accounts are the parts of nats.conf that say who may connect: accounts, system_account
// and authorization. The operator of the fleet connects with the keys of its users, and
// answers for everybody else from account SYS, which no leaf reaches.
func Accounts(k natskeys.Public) map[string]any {
	user := func(key string) []any { return []any{map[string]any{"nkey": key}} }
	callout := map[string]any{
		"issuer": k.Issuer, "account": bus.AccountSystem, "auth_users": []any{k.Devices, k.Core, k.System},
	}
	if k.XKey != "" {
		callout["xkey"] = k.XKey
	}
	return map[string]any{
		"accounts": map[string]any{
			bus.AccountDevices: map[string]any{"users": user(k.Devices)},
			bus.AccountCore:    map[string]any{"users": user(k.Core), "jetstream": "enabled"},
			bus.AccountSystem:  map[string]any{"users": user(k.System)},
		},
		"system_account": bus.AccountSystem,
		"authorization":  map[string]any{"timeout": int(bus.AuthTimeout.Seconds()), "auth_callout": callout},
	}
}
