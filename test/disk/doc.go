// Package disk makes file systems whose power can be cut. An ext4 file system lies on a
// loop device over an image, and only what reached the image would be on a real disk: what
// is in the page cache alone is lost when the image is taken away at that moment.
package disk
