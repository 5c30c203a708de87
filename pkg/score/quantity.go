package score

import (
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// quantityPattern is the grammar of Kubernetes' quantities without signs: 512M, 0.5Gi, 1e9,
// 500m. The length is bounded besides.
var quantityPattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([KMGTPE]i|[numkMGTPE])|([eE][+-]?[0-9]{1,2}))?$`)

// maxQuantity bounds the text of a quantity in bytes.
const maxQuantity = 32

// unit is what the suffixes of quantities stand for, in billionths.
var unit = func() map[string]*big.Int {
	units := map[string]*big.Int{"n": big.NewInt(1), "u": big.NewInt(1e3), "m": big.NewInt(1e6), "": big.NewInt(1e9)}
	decimal, binary := big.NewInt(1e9), big.NewInt(1e9)
	for _, prefix := range []string{"k", "M", "G", "T", "P", "E"} {
		decimal, binary = new(big.Int).Mul(decimal, big.NewInt(1000)), new(big.Int).Lsh(binary, 10)
		units[prefix] = decimal
		if prefix == "k" {
			prefix = "K"
		}
		units[prefix+"i"] = binary
	}
	return units
}()

// quantity reads a quantity as Kubernetes writes it, in parts of which a unit has as many as
// parts says, rounded up as Kubernetes does. It is false for what is none, or is too large.
func quantity(text string, parts int64) (n int64, ok bool) {
	m := quantityPattern.FindStringSubmatch(text)
	if m == nil || len(text) > maxQuantity {
		return 0, false
	}
	value, ok := new(big.Rat).SetString(m[1] + m[3])
	if !ok {
		return 0, false
	}
	value.Mul(value, new(big.Rat).SetFrac(unit[m[2]], big.NewInt(1e9)))
	value.Mul(value, new(big.Rat).SetInt64(parts))
	whole, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return 0, false
	}
	return whole.Int64(), true
}

// Bytes is a quantity of bytes, as a validated score has it; 0 for none.
func Bytes(text string) int64 {
	n, _ := quantity(text, 1)
	return n
}

// checkQuantity checks a quantity. instead says what to write in place of one that is none.
func checkQuantity(field, text, instead string) error {
	if len(text) > maxQuantity || !quantityPattern.MatchString(text) {
		return fieldErrorf(field, "%.32q is no quantity: use %s", text, instead)
	}
	return nil
}

// checkBytes checks a quantity of bytes that may be empty. least is its name, too.
func checkBytes(field, text, least string) error {
	if text == "" {
		return nil
	}
	instead := bytesInstead(text, Bytes(least))
	if err := checkQuantity(field, text, instead); err != nil {
		return err
	}
	switch n, ok := quantity(text, 1); {
	case !ok:
		return fieldErrorf(field, "%.32q is too much: use less than 8Ei", text)
	case n < Bytes(least):
		return fieldErrorf(field, "%.32q is not at least %s: use %s", text, least, instead)
	}
	return nil
}

const anyBytes = "bytes, or a quantity such as 512M, 0.5Gi or 1e9"

// otherUnits are bytes in units that are not those of Kubernetes, or mean something else
// there: 512MB, 64 mib, 5K, 512m.
var otherUnits = regexp.MustCompile(`(?i)^([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *(?:([kmgtpe])(i?))?b?$`)

// bytesInstead proposes quantities for a text that is none, or is too small: what it may
// mean, as far as that is at least what is needed.
func bytesInstead(text string, least int64) string {
	m := otherUnits.FindStringSubmatch(text)
	if m == nil {
		return anyBytes
	}
	number, prefix := m[1], strings.ToUpper(m[2])
	proposals := []string{number + prefix + "i"}
	if m[3] == "" {
		proposals = []string{number + strings.Replace(prefix, "K", "k", 1), proposals[0]}
	}
	proposals = slices.DeleteFunc(proposals, func(p string) bool {
		n, ok := quantity(p, 1)
		return p == text || !ok || n < least
	})
	if len(proposals) == 0 {
		return anyBytes
	}
	return list(proposals)
}
