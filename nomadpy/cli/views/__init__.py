"""Pure renderers: from the API's JSON to what a terminal shows, at any width and without colour as well."""
