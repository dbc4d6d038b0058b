"""The commands themselves: each asks the API and hands the answer to a view."""
