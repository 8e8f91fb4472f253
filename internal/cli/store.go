package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

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

type storeOptions struct {
	File  string
	Data  string
	Store string
}

func newStoreCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "store",
		GroupID: groupRun,
		Short:   "Export, import and back up what an environment is made of",
		Long: `Work on the store itself: services, versions with their history, named routes and events.
These commands need no server. An export and a backup hold the values of variables, which may
be secrets: only you can read the file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStoreExportCmd(app), newStoreImportCmd(app), newStoreBackupCmd(app))
	return cmd
}

func (o *storeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.File, "file", "f", config.FileName, "configuration file, which says where the store is; may be missing")
	f.StringVar(&o.Data, "data", "", "folder of store, logs and instances (default: .layover beside the file)")
	f.StringVar(&o.Store, "store", "", "folder or .db file of the store, or postgres:// URL (LAYOVER_STORE; default: in the data folder)")
}

// location returns where the store is, by flags, variables and the file, in this order.
func (o *storeOptions) location(app *App, cmd *cobra.Command) (string, error) {
	file := config.Default()
	if _, err := os.Stat(o.File); err == nil || cmd.Flags().Changed("file") {
		if file, err = loadFile(app, o.File); err != nil {
			return "", err
		}
	} else if err := file.ApplyEnv(app.Environ); err != nil {
		return "", err
	}
	if err := setStore(file, o.Store); err != nil {
		return "", err
	}
	return file.StoreLocation(dataFolder(o.File, o.Data)), file.Validate()
}

func newStoreExportCmd(app *App) *cobra.Command {
	opts := &storeOptions{}
	cmd := &cobra.Command{
		Use:   "export FILE|-",
		Short: "Write all of the store to a file, for another store",
		Long: `Write all that the store has to a new file, or with - to the standard output: JSON lines with a
checksum, the same from SQLite and from PostgreSQL. A server may run meanwhile; what is written
is the state of one moment. To move an environment, end its server first.`,
		Example: `  layover store export shop.jsonl
  layover store export --store postgres://layover@db.example.com/layover shop.jsonl
  layover store export - | gzip > shop.jsonl.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			location, err := opts.location(app, cmd)
			if err != nil {
				return err
			}
			return exportStore(cmd.Context(), app, location, args[0])
		},
	}
	opts.flags(cmd)
	return cmd
}

func exportStore(ctx context.Context, app *App, location, to string) error {
	var counts store.Counts
	write := func(w io.Writer) (err error) {
		if config.IsPostgres(location) {
			counts, err = store.ExportPostgres(ctx, location, w)
		} else {
			counts, err = store.ExportSQLite(ctx, location, w)
		}
		return err
	}
	var err error
	if to == "-" {
		err = write(app.Out)
	} else {
		err = store.NewFile(to, func(f *os.File) error { return write(f) })
	}
	if err == nil {
		app.say("exported %s\n", counts)
	}
	return err
}

func newStoreImportCmd(app *App) *cobra.Command {
	opts := &storeOptions{}
	cmd := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Fill an empty store with what was exported",
		Long: `Fill an empty store with an export, from a file or with - from the standard input. All of it is
stored or, where anything is wrong with it, nothing. A store that has something in it is refused,
and so is one that a server has.`,
		Example: `  LAYOVER_STORE=postgres://layover@db.example.com/layover layover store import shop.jsonl
  gunzip < shop.jsonl.gz | layover store import --store new.db -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			location, err := opts.location(app, cmd)
			if err != nil {
				return err
			}
			return importStore(cmd.Context(), app, location, args[0])
		},
	}
	opts.flags(cmd)
	return cmd
}

func importStore(ctx context.Context, app *App, location, from string) (err error) {
	in := app.In
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return usagef("name a file that layover store export wrote", "open the export: %w", err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	db, err := openStore(ctx, location)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	counts, err := db.Import(ctx, in)
	if err != nil {
		return err
	}
	app.say("imported %s into %s\n", counts, db.Path())
	return nil
}

func newStoreBackupCmd(app *App) *cobra.Command {
	opts := &storeOptions{}
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy an SQLite store while its server runs",
		Long: `Copy the SQLite store to a new file, which is a store of its own: put it in the place of
layover.db, with the server ended, to go back to it. The server may run meanwhile; the copy is the
state of one moment, and is there whole or not at all. PostgreSQL has pg_dump for this.`,
		Example: `  layover store backup "backup-$(date +%F).db"
  layover store backup --data /var/lib/layover /backup/layover.db`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			location, err := opts.location(app, cmd)
			if err != nil {
				return err
			}
			if config.IsPostgres(location) {
				return usagef("use pg_dump, or layover store export", "the store is a PostgreSQL database, which this command does not copy")
			}
			if err := store.BackupSQLite(cmd.Context(), location, args[0]); err != nil {
				return err
			}
			app.say("%s is a copy of %s\n", args[0], location)
			return nil
		},
	}
	opts.flags(cmd)
	return cmd
}
