//! DNS and sender authentication. N: name servers that are silent, wrong or hostile, and the limits of SPF, DKIM, DMARC and ARC.
