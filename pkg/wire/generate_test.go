package wire_test

import (
	"strings"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// validName draws RFC 1123 labels, the longest included.
func validName() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`)
}

// anyName draws good names, near misses and rubbish.
func anyName() *rapid.Generator[string] {
	return rapid.OneOf(validName(), rapid.SampledFrom(hostileNames), rapid.String())
}

func validRef() *rapid.Generator[wire.DeploymentRef] { return refOf(validName()) }

func refOf(names *rapid.Generator[string]) *rapid.Generator[wire.DeploymentRef] {
	return rapid.Custom(func(t *rapid.T) wire.DeploymentRef {
		return wire.DeploymentRef{Namespace: names.Draw(t, "namespace"), Name: names.Draw(t, "name")}
	})
}

func digest() *rapid.Generator[wire.Digest] {
	return rapid.Custom(func(t *rapid.T) wire.Digest {
		return wire.Sum(rapid.SliceOf(rapid.Byte()).Draw(t, "payload"))
	})
}

// hostileNames are refused everywhere. Each could change the meaning of a
// subject, a key or a path that it became a part of.
var hostileNames = []string{
	"", ".", "..", "a.b", "a.", ".a", "*", ">", "a*", "a>", " ", " a", "a ", "a\n", "a\x00", "\t",
	"A", "aB", "-", "-a", "a-", "_", "a_b", "a/b", "a\\b", "é", "а", "a\u200b", "\xff", "%2e",
	"$JS", "_INBOX", strings.Repeat("a", wire.MaxNameLength+1), strings.Repeat("a", 1<<16),
}
