CREATE DOMAIN age AS integer CHECK (value >= 0);

CREATE TABLE odd_ones (
    id uuid PRIMARY KEY,
    seen_at timestamp NOT NULL,
    age age NOT NULL,
    span tstzrange NOT NULL,
    document jsonb NOT NULL,
    large bigint NOT NULL,
    note text NOT NULL,
    grid integer[][] NOT NULL
);

CREATE TABLE others (
    id uuid PRIMARY KEY,
    label text NOT NULL
);
