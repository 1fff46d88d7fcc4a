"""The parts of the page. Each is a function of what is shown, and empty where there is nothing."""
