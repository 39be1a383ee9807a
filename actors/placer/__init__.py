"""The placer: workers that may run at any node of the region."""
