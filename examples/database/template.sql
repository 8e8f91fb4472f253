CREATE TABLE orders (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL
);
INSERT INTO orders (item) VALUES ('book'), ('lamp');
