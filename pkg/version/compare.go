package version

import "strings"

// Older reports whether version a comes before version b, in the order of dpkg,
// which is that of rpm for versions as tools/version.sh writes them. A version
// that does not begin with a digit is no release's, so that it has no place in
// the order: it is neither older nor newer than another.
func Older(a, b string) bool {
	return ordered(a) && ordered(b) && compare(a, b) < 0
}

func ordered(v string) bool { return v != "" && isDigit(v[0]) }

// compare follows dpkg: parts without digits and numbers by turns.
func compare(a, b string) int {
	for a != "" || b != "" {
		var textA, textB, numberA, numberB string
		textA, a = cut(a, false)
		textB, b = cut(b, false)
		if c := compareTexts(textA, textB); c != 0 {
			return c
		}
		numberA, a = cut(a, true)
		numberB, b = cut(b, true)
		if c := compareNumbers(numberA, numberB); c != 0 {
			return c
		}
	}
	return 0
}

// cut splits off the digits, or what is none, that v begins with.
func cut(v string, digits bool) (part, rest string) {
	i := 0
	for i < len(v) && isDigit(v[i]) == digits {
		i++
	}
	return v[:i], v[i:]
}

func compareTexts(a, b string) int {
	for i := range max(len(a), len(b)) {
		if c := rank(a, i) - rank(b, i); c != 0 {
			return c
		}
	}
	return 0
}

// rank orders the bytes of a text: a tilde comes before the end, then letters,
// then all else.
func rank(s string, i int) int {
	const others = 256
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z':
		return int(s[i])
	}
	return int(s[i]) + others
}

// compareNumbers takes numbers of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
