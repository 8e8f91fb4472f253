package config

import (
	"path/filepath"
	"strings"
)

// IsPostgres says whether the setting store names a PostgreSQL database.
func IsPostgres(location string) bool {
	return strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://")
}

// HasPassword says whether text has a URL with a password in it.
func HasPassword(text string) bool {
	_, rest, ok := strings.Cut(text, "://")
	if !ok {
		return false
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 && strings.Contains(rest[:at], ":") {
		return true // also where the password holds characters that a URL must not
	}
	_, query, _ := strings.Cut(rest, "?")
	return strings.Contains(query, "password=")
}

// StoreLocation returns where the environment is kept: the address of a PostgreSQL database, or the path of
// an SQLite file. data is the folder of what has no other place.
func (f *File) StoreLocation(data string) string {
	location := f.Store
	switch {
	case location == "":
		location = data
	case IsPostgres(location):
		return location
	case !filepath.IsAbs(location) && f.source != nil:
		location = filepath.Join(f.source.dir, location)
	}
	if strings.HasSuffix(location, ".db") {
		return location
	}
	return filepath.Join(location, "layover.db")
}

// store checks the setting. What it says has nothing of the value: it may hold a password.
func (k checker) store() {
	location := k.file.Store
	scheme, _, isURL := strings.Cut(location, "://")
	switch {
	case IsPostgres(location), location == "":
	case isURL && strings.Contains(strings.ToLower(scheme), "postgres"):
		k.value(path{"store"}, "write postgres:// in front", "the scheme of a PostgreSQL database is postgres")
	case isURL:
		k.value(path{"store"}, "write a folder, a file whose name ends in .db, or postgres://user@host/database", "a store cannot be at such a URL")
	case strings.ContainsRune(location, 0):
		k.value(path{"store"}, "", "a path cannot have the character NUL")
	}
}
