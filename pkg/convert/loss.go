package convert

import (
	"fmt"
	"strings"
)

// Loss is something that the translation lacks or that means something else there.
type Loss struct {
	// Path leads to it in the document: services, web, build. "[0]" is the first item of a list.
	Path []string
	// Why it is not translated, and what to do Instead.
	Why, Instead string
}

// What is the path in one word: services.web.ports[0].
func (l Loss) What() string { return join(l.Path) }

func join(path []string) string {
	var b strings.Builder
	for i, name := range path {
		if i > 0 && !strings.HasPrefix(name, "[") {
			b.WriteByte('.')
		}
		b.WriteString(name)
	}
	return b.String()
}

// item is the name of an item of a list in a path.
func item(i int) string { return fmt.Sprintf("[%d]", i) }

// losses are collected while something is translated.
type losses struct {
	list []Loss
	// reported has where and why of each: a file may have very many.
	reported map[[2]string]bool
}

// lose reports a loss, once.
func (l *losses) lose(path []string, why, instead string) {
	loss := Loss{Path: path, Why: why, Instead: instead}
	key := [2]string{strings.Join(path, "\x00"), why}
	if l.reported[key] {
		return
	}
	if l.reported == nil {
		l.reported = map[[2]string]bool{}
	}
	l.reported[key] = true
	l.list = append(l.list, loss)
}

// below returns a path that goes on from another one, without sharing memory with it.
func below(path []string, names ...string) []string {
	return append(append(make([]string, 0, len(path)+len(names)), path...), names...)
}

// take returns what a field holds and leaves nothing in it: what is left is reported.
func take[T any](field *T) T {
	var nothing T
	value := *field
	*field = nothing
	return value
}
