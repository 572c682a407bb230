//! SMTP protocol security. SP: what a client may say and when, relay control, loops, injection.
