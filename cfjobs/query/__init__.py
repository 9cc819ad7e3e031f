"""Questions about what has been published: a user's list, a movie, why;
and the list of a user who has just arrived."""
