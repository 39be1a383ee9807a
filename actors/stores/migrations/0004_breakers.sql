-- What operators have said of breakers, which a scheduler that restarts must hear again.

CREATE TABLE breakers (
    worker_id text NOT NULL,
    model_ref text NOT NULL,
    mode      text NOT NULL CHECK (mode IN ('forced_open', 'disabled')),
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker_id, model_ref)
);
COMMENT ON TABLE breakers IS 'Breakers that an operator has set; one in automatic mode has no row.';
