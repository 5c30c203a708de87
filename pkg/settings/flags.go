package settings

import (
	"reflect"

	"github.com/spf13/pflag"
)

const flagFile = "config"

// envFile is the variable that names the configuration file.
func (p Program) envFile() string { return p.Prefix + "CONFIG" }

// AddFlags adds the flags of a configuration that holds the defaults, and
// --config.
func (p Program) AddFlags(flags *pflag.FlagSet, defaults any) {
	flags.String(flagFile, p.File, "configuration file; only the default one may be missing ($"+p.envFile()+")")
	for _, s := range Of(defaults) {
		if s.Flag == "" {
			continue
		}
		usage := s.Usage + " ($" + s.Env + ")"
		if s.List() {
			flags.StringSlice(s.Flag, nil, usage)
		} else {
			flags.String(s.Flag, s.Text(), usage)
		}
	}
}

// Path returns the configuration file, and whether somebody asked for it. Flags
// may be nil.
func (p Program) Path(env Env, flags *pflag.FlagSet) (path string, asked bool) {
	if path := given(flags, flagFile); path != "" {
		return path, true
	}
	if path := env.Get(p.envFile()); path != "" {
		return path, true
	}
	return p.File, false
}

func given(flags *pflag.FlagSet, name string) string {
	if flags == nil {
		return ""
	}
	if f := flags.Lookup(name); f != nil && f.Changed {
		return f.Value.String()
	}
	return ""
}

// fillFromFlags sets what flags say. One that is empty says nothing.
func fillFromFlags(all []Setting, flags *pflag.FlagSet) {
	for _, s := range all {
		f := flags.Lookup(s.Flag)
		if s.Flag == "" || f == nil || !f.Changed {
			continue
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			if values := list.GetSlice(); len(values) > 0 {
				s.value.Set(reflect.ValueOf(trimmed(values)))
			}
		} else if text := f.Value.String(); text != "" {
			s.value.SetString(text)
		}
	}
}
