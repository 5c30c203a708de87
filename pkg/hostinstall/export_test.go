package hostinstall

// Unfinished is where a Put that was killed leaves what it wrote.
var Unfinished = unfinished
