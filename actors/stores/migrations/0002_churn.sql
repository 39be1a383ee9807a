-- Leases come and go with every request: vacuum them by their number, not by their share.

ALTER TABLE leases SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
