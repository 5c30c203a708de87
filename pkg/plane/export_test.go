package plane

var DropExpired = dropExpired
