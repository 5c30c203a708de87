// Package template has the texts of a score that differ from device to device:
// ${device.labels.site}. It parses them, says which values of a device they use, and
// renders them. It is pure, and knows neither scores nor devices.
//
// An expression begins with "${", a name and a dot, which no shell takes for a variable.
// "$${name." stands for the text "${name.". All else is text.
//
// The package imports the standard library only.
package template
