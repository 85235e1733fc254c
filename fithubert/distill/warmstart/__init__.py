"""A thin student's first weights cut from its teacher: channels chosen, then each layer fitted in closed form."""
