-- +goose Up

-- Runs of test suites: in spec what lists have, in detail the rest. How each test went, over all runs
-- of its suite. The versions of suites that were published, and what runs of a suite touched.

CREATE TABLE test_runs (
    id     TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    spec   TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE TABLE test_history (
    suite TEXT NOT NULL,
    test  TEXT NOT NULL,
    spec  TEXT NOT NULL,
    PRIMARY KEY (suite, test)
) STRICT;

CREATE TABLE suites (
    name TEXT NOT NULL,
    ref  TEXT NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (name, ref)
) STRICT;

CREATE TABLE suite_touches (
    suite   TEXT NOT NULL,
    service TEXT NOT NULL,
    spec    TEXT NOT NULL,
    PRIMARY KEY (suite, service)
) STRICT;
