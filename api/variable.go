package api

// IsVariable says whether name can be the name of an environment variable: what POSIX
// asks for (letters, digits and "_", no digit first), and "." and "-" behind the first
// character, which some frameworks use.
func IsVariable(name string) bool {
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '_'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '.' && r != '-') {
			return false
		}
	}
	return name != ""
}
