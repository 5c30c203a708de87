package storage

// MendSecrets writes what is whole of podman's secrets, as Repair does once it has found damage.
var MendSecrets = mendSecrets
