-- What a generation changed against the one before it (src/generation-diff.ts), as JSON: contents are kept of the last one alone. NULL: written by an older rackseed.
ALTER TABLE generations ADD COLUMN changes TEXT;
