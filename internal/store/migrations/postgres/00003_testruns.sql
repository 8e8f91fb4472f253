-- +goose Up

-- Runs of test suites: in spec what lists have, in detail the rest. How each test went, over all runs
-- of its suite. The versions of suites that were published, and what runs of a suite touched.

CREATE TABLE test_runs (
    id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    spec   TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE TABLE test_history (
    suite TEXT COLLATE "C" NOT NULL,
    test  TEXT COLLATE "C" NOT NULL,
    spec  TEXT NOT NULL,
    PRIMARY KEY (suite, test)
);

CREATE TABLE suites (
    name TEXT COLLATE "C" NOT NULL,
    ref  TEXT COLLATE "C" NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (name, ref)
);

CREATE TABLE suite_touches (
    suite   TEXT COLLATE "C" NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    spec    TEXT NOT NULL,
    PRIMARY KEY (suite, service)
);
