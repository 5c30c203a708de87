package score

import (
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // devices and gateways may have no time zones of their own

	"github.com/robfig/cron/v3"
)

// Schedule says when a service runs that does a job and ends.
type Schedule struct {
	// Cron has five fields: minute, hour, day of the month, month and day of the week, or
	// is one of @hourly, @daily, @weekly, @monthly and @yearly.
	Cron string `json:"cron"`
	// TimeZone is a name of the IANA database such as Europe/Zurich; UTC when it is empty.
	TimeZone string `json:"timeZone,omitempty"`
	// ConcurrencyPolicy says what becomes of a run whose time comes while the one before
	// still runs: Forbid (the default) leaves it out, Replace ends the one before.
	ConcurrencyPolicy ConcurrencyPolicy `json:"concurrencyPolicy,omitempty"`
	// MissedRuns says what becomes of runs whose time passed while the device was off, or
	// by a clock that was set: Skip (the default) leaves them out, RunOnce makes up for the
	// last of them.
	MissedRuns MissedRuns `json:"missedRuns,omitempty"`
}

// ConcurrencyPolicy is named as in a Kubernetes CronJob.
type ConcurrencyPolicy string

// Values of ConcurrencyPolicy.
const (
	ConcurrencyForbid  ConcurrencyPolicy = "Forbid"
	ConcurrencyReplace ConcurrencyPolicy = "Replace"
)

// MissedRuns says what becomes of runs that were missed.
type MissedRuns string

// Values of MissedRuns.
const (
	MissedSkip    MissedRuns = "Skip"
	MissedRunOnce MissedRuns = "RunOnce"
)

// maxCron and maxZone bound the texts of a schedule.
const maxCron, maxZone = 128, 64

var (
	// cronPattern is less than the parser takes, which knows prefixes and intervals that
	// depend on when it is asked.
	cronPattern = regexp.MustCompile(`^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|[0-9A-Za-z*/,?-]+( +[0-9A-Za-z*/,?-]+){4})$`)
	zonePattern = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
)

// Times are the times of runs.
type Times struct {
	times cron.Schedule
	zone  *time.Location
	// often: it runs more than once a day by its own word.
	often bool
}

// Next is the first time of a run after a time, or zero when there is none within five years.
// In the hour that there is twice when summer time ends, a run that is once a day is in the
// first one alone. What falls into the hour that there is not when it begins is left out.
func (t *Times) Next(after time.Time) time.Time {
	next := t.times.Next(after.In(t.zone))
	for !t.often && t.again(next) {
		next = t.times.Next(next)
	}
	return next
}

// again reports whether clocks on the wall showed a time before.
func (t *Times) again(at time.Time) bool {
	before := at.Add(-time.Hour)
	return !at.IsZero() && before.Hour() == at.Hour() && before.Minute() == at.Minute()
}

// Times returns when the runs of the schedule are.
func (s *Schedule) Times() (*Times, error) {
	if len(s.Cron) > maxCron || !cronPattern.MatchString(s.Cron) {
		return nil, fieldErrorf("cron", "%.80q is not minute, hour, day of the month, month and day of the week, such as \"30 3 * * 1-5\", or @daily", s.Cron)
	}
	times, err := cron.ParseStandard(s.Cron)
	if err != nil {
		return nil, fieldErrorf("cron", "%.200s", err.Error())
	}
	if len(s.TimeZone) > maxZone || s.TimeZone == "Local" || s.TimeZone != "" && !zonePattern.MatchString(s.TimeZone) {
		return nil, fieldErrorf("timeZone", "%.80q is no time zone such as Europe/Zurich", s.TimeZone)
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return nil, fieldErrorf("timeZone", "%.80q is no time zone such as Europe/Zurich", s.TimeZone)
	}
	fields := strings.Fields(s.Cron)
	return &Times{times, zone, s.Cron == "@hourly" || len(fields) > 1 && strings.Contains(fields[1], "*")}, nil
}

// someTime is where the search for a first run begins that shows that there is one.
var someTime = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// validateSchedule checks when a service runs, and what such a service may not have.
func (s *Service) validateSchedule(at string) error {
	if s.Schedule == nil {
		return nil
	}
	schedule := at + ".schedule"
	var found mistakes
	if times, err := s.Schedule.Times(); err != nil {
		found.add(below(schedule, err))
	} else if times.Next(someTime).IsZero() {
		found.add(fieldErrorf(schedule+".cron", "%.80q never comes", s.Schedule.Cron))
	}
	found.add(checkOneOf(schedule+".concurrencyPolicy", s.Schedule.ConcurrencyPolicy, ConcurrencyForbid, ConcurrencyReplace))
	found.add(checkOneOf(schedule+".missedRuns", s.Schedule.MissedRuns, MissedSkip, MissedRunOnce))
	if s.Restart == RestartAlways {
		found.add(fieldErrorf(at+".restart", "a service with a schedule does its job and ends: use Never, its default, or OnFailure"))
	}
	found.add(refuseGiven(
		at, "a service with a schedule has none: nothing waits for it",
		givenField{"startupProbe", s.StartupProbe != nil}, givenField{"readinessProbe", s.ReadinessProbe != nil},
	))
	return found.err()
}

// below puts the path of a parent before the field of an error.
func below(at string, err error) error {
	var found mistakes
	found.add(err)
	for _, e := range found.found {
		e.Field = at + "." + e.Field
	}
	return found.err()
}
