-- Keys that may change the registry of models over HTTP.
ALTER TABLE api_keys ADD COLUMN operator boolean NOT NULL DEFAULT false;
