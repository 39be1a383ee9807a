"""The admin shell: what operators ask of a running node, and have it do."""
