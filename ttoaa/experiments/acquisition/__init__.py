"""Knowledge to be acquired: facts in many wordings, and the controllers that meter them."""
