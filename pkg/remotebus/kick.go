package remotebus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// unheard is where answers go that nobody waits for.
const unheard = bus.ServerInbox + ".unheard"

// Drop implements bus.Connections.
func (b *Bus) Drop(connections []uint64) {
	for _, n := range connections {
		if p, known := b.connections.of(n); known {
			b.kick(p)
		}
	}
}

// kick asks for the end of a connection. NATS does so for whoever wants an answer alone, and
// tells of the end itself.
func (b *Bus) kick(p place) {
	data, _ := json.Marshal(map[string]uint64{"cid": p.cid}) // numbers always encode
	if err := b.system.PublishRequest("$SYS.REQ.SERVER."+p.server+".KICK", unheard, data); err != nil {
		b.log.Warn("a connection cannot be ended", "connection", p.cid, "server", p.server, "error", err)
	}
}

// DropUnread implements bus.Connections.
func (b *Bus) DropUnread(connections []uint64) {
	go b.guard.Do(func() {
		for _, n := range connections {
			p, known := b.connections.of(n)
			if !known {
				continue
			}
			page, err := b.list(context.Background(), p.server, listRequest{CID: p.cid})
			if err != nil || len(page.Connections) == 0 || page.Connections[0].Pending <= bus.MaxUnread {
				continue // gone already, or it reads
			}
			b.refused.WithLabelValues("slowConsumer").Inc()
			b.kick(p)
		}
	})
}

// listRequest asks a server for connections.
type listRequest struct {
	CID     uint64 `json:"cid,omitempty"`
	Account string `json:"acc,omitempty"`
	Auth    bool   `json:"auth,omitempty"`
	Offset  int    `json:"offset,omitempty"`
	Limit   int    `json:"limit,omitempty"`
}

// listReply is the answer of one server.
type listReply struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Data page `json:"data"`
	// Error is set when the server cannot answer.
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

// page is a part of the connections of a server.
type page struct {
	Connections []connection `json:"connections"`
}

// connection is what NATS says of one.
type connection struct {
	CID     uint64 `json:"cid"`
	Pending int    `json:"pending_bytes"`
	// Session is what a device's client calls itself, Device who it is.
	Session string `json:"name"`
	Device  string `json:"authorized_user"`
}

// list asks one server.
func (b *Bus) list(ctx context.Context, server string, r listRequest) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return page{}, err
	}
	m, err := b.system.RequestWithContext(ctx, "$SYS.REQ.SERVER."+server+".CONNZ", data)
	if err != nil {
		return page{}, fmt.Errorf("asking NATS server %s for its connections: %w", server, err)
	}
	var reply listReply
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return page{}, fmt.Errorf("reading the connections of NATS: %w", err)
	}
	if reply.Error != nil {
		return page{}, fmt.Errorf("NATS: %s", reply.Error.Description)
	}
	return reply.Data, nil
}

// sweep compares the connections of devices that NATS has with those that were let in here:
// others have the connections of devices that it does not own.
func (b *Bus) sweep(ctx context.Context) error {
	asked := time.Now()
	servers, err := b.servers(ctx)
	if err != nil {
		return err
	}
	there, ours := map[place]bool{}, map[place]bool{}
	for _, server := range servers {
		for offset := 0; ; offset += pageSize {
			p, err := b.list(ctx, server, listRequest{Account: bus.AccountDevices, Auth: true, Offset: offset, Limit: pageSize})
			if err != nil {
				return err
			}
			for _, c := range p.Connections {
				there[place{server, c.CID}] = true
				if wire.ValidSession(c.Session) && b.owns(c.Device) {
					ours[place{server, c.CID}] = true
				}
			}
			if len(p.Connections) < pageSize {
				break
			}
		}
	}
	for _, p := range b.connections.lost(there, asked) {
		b.ended(p)
	}
	for _, p := range b.connections.strangers(ours) {
		b.kick(p)
	}
	return nil
}

// serversTimeout is how long after an answer of a server another one may come.
const serversTimeout = 300 * time.Millisecond

// servers are the ids of the servers that there are: each answers.
func (b *Bus) servers(ctx context.Context) (ids []string, err error) {
	inbox := b.system.NewInbox()
	sub, err := b.system.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed already
	if err := b.system.PublishRequest("$SYS.REQ.SERVER.PING", inbox, nil); err != nil {
		return nil, err
	}
	for wait := requestTimeout; ; wait = serversTimeout {
		next, cancel := context.WithTimeout(ctx, wait)
		m, err := sub.NextMsgWithContext(next)
		cancel()
		switch {
		case err != nil && len(ids) > 0 && ctx.Err() == nil:
			return ids, nil
		case err != nil:
			return nil, fmt.Errorf("asking NATS which servers it has: %w", err)
		}
		var reply listReply
		if json.Unmarshal(m.Data, &reply) == nil && reply.Server.ID != "" {
			ids = append(ids, reply.Server.ID)
		}
	}
}
