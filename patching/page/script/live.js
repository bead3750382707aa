// The live page: it follows what one types.

/** Show the live page. */
export function showLive() {}
