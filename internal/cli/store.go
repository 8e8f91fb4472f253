package cli

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/store"
)

// openStore opens the store at what [config.File.StoreLocation] returns.
func openStore(ctx context.Context, location string) (*store.DB, error) {
	if config.IsPostgres(location) {
		return store.OpenPostgres(ctx, location)
	}
	return store.OpenSQLite(ctx, location)
}

// dataFolder is where the environment of a configuration file keeps what it has, unless told otherwise.
func dataFolder(file, given string) string {
	return cmp.Or(given, filepath.Join(filepath.Dir(file), ".layover"))
}

// setStore lets --store go over the file.
func setStore(file *config.File, location string) error {
	if location == "" {
		return nil
	}
	if err := checkLocation(location); err != nil {
		return err
	}
	if !config.IsPostgres(location) {
		absolute, err := filepath.Abs(location) // of this folder, not of the file's
		if err != nil {
			return fmt.Errorf("find the store: %w", err)
		}
		location = absolute
	}
	if err := file.Set("store", location, "--store"); err != nil {
		return err
	}
	return file.Validate()
}

// checkLocation refuses a password on the command line: everybody on the machine can read it there.
func checkLocation(location string) error {
	if config.HasPassword(location) {
		return usagef("put the password into PGPASSWORD, into a file that PGPASSFILE names, or the whole address into LAYOVER_STORE",
			"a password on the command line can be read by everybody on this machine")
	}
	return nil
}
