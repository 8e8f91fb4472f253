package proxy

import "unsafe"

// view is b as a string, without a copy. It is good as long as b is not changed; what
// is kept longer is cloned.
func view[T ~[]byte](b T) string { return unsafe.String(unsafe.SliceData(b), len(b)) } //nolint:gosec // what it is for
