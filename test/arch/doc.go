// Package arch keeps the parts of fleet apart: it derives which package may
// reach which from the layout of the repository, and its tests hold the whole
// import closure of every package against that.
package arch
