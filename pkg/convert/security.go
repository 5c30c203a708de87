package convert

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// security translates with which rights the container runs.
func (c *container) security(in *types.ContainerSpec) {
	var sc score.SecurityContext
	needed, escalates := false, true
	try := func(set func(*score.SecurityContext)) bool {
		trial := score.SecurityContext{}
		set(&trial)
		if c.refused(func(s *score.Service) { s.SecurityContext = &trial }) {
			return false
		}
		set(&sc)
		needed = true
		return true
	}
	if in.User != "" && runAs(in.User, try) {
		take(&in.User)
	}
	in.GroupAdd = slices.DeleteFunc(in.GroupAdd, func(group string) bool {
		id, err := strconv.Atoi(group)
		return err == nil && try(func(s *score.SecurityContext) { s.SupplementalGroups = append(s.SupplementalGroups, id) })
	})
	if take(&in.ReadOnly) {
		try(func(s *score.SecurityContext) { s.ReadOnlyRootFilesystem = true })
	}
	in.CapAdd = slices.DeleteFunc(in.CapAdd, func(name string) bool {
		return try(func(s *score.SecurityContext) { s.Capabilities.Add = append(s.Capabilities.Add, capability(name)) })
	})
	in.CapDrop = slices.DeleteFunc(in.CapDrop, func(name string) bool {
		return try(func(s *score.SecurityContext) { s.Capabilities.Drop = append(s.Capabilities.Drop, capability(name)) })
	})
	for _, name := range slices.Sorted(maps.Keys(in.Sysctls)) {
		value := in.Sysctls[name]
		if try(func(s *score.SecurityContext) {
			s.Sysctls = append(s.Sysctls, score.Sysctl{Name: name, Value: value})
		}) {
			delete(in.Sysctls, name)
		}
	}
	in.SecurityOpt = slices.DeleteFunc(in.SecurityOpt, func(option string) bool {
		switch name, value, _ := strings.Cut(strings.Replace(option, "=", ":", 1), ":"); {
		case name == "no-new-privileges" && (value == "" || value == "true"):
			escalates = false
			return try(func(*score.SecurityContext) {})
		case name == "no-new-privileges" && value == "false":
			return true
		case option == "seccomp:unconfined" || option == "seccomp=unconfined":
			return try(func(s *score.SecurityContext) { s.SeccompProfile.Type = score.SeccompUnconfined })
		case name == "label":
			return seLinux(strings.Replace(value, "=", ":", 1), try)
		}
		return false
	})
	if needed {
		if escalates { // as in docker; with a securityContext the default is false
			sc.AllowPrivilegeEscalation = &escalates
		}
		c.out.SecurityContext = &sc
	}
}

func seLinux(option string, try func(func(*score.SecurityContext)) bool) bool {
	part, value, _ := strings.Cut(option, ":")
	return try(func(s *score.SecurityContext) {
		switch part {
		case "user":
			s.SELinuxOptions.User = value
		case "role":
			s.SELinuxOptions.Role = value
		case "type":
			s.SELinuxOptions.Type = value
		case "level":
			s.SELinuxOptions.Level = value
		default:
			s.SELinuxOptions.Level = "\x00" // refused
		}
	})
}

func runAs(user string, try func(func(*score.SecurityContext)) bool) bool {
	name, group, grouped := strings.Cut(user, ":")
	name, group = numbered(name), numbered(group)
	uid, err := strconv.Atoi(name)
	if err != nil {
		return false
	}
	if !grouped {
		return try(func(s *score.SecurityContext) { s.RunAsUser = &uid })
	}
	gid, err := strconv.Atoi(group)
	return err == nil && try(func(s *score.SecurityContext) { s.RunAsUser, s.RunAsGroup = &uid, &gid })
}

func capability(name string) string { return strings.TrimPrefix(strings.ToUpper(name), "CAP_") }

// numbered is the number of root, which is the same in all images, and others as they are.
func numbered(name string) string {
	if name == "root" {
		return "0"
	}
	return name
}
