-- Special tokens in what clients send are text, but for models that say otherwise.

ALTER TABLE models ADD COLUMN special_tokens_in_text boolean NOT NULL DEFAULT false;
