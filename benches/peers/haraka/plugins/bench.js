'use strict';
// One hook for each stage of a mail, each of which says yes at once; and the fixed next hop, as the other servers have it.

exports.register = function () {
  for (const stage of ['connect', 'helo', 'ehlo', 'mail', 'data', 'data_post', 'queue_outbound']) {
    this.register_hook(stage, 'proceed');
  }
  this.register_hook('lookup_rdns', 'named');
  this.register_hook('rcpt', 'accept');
  this.register_hook('get_mx', 'next_hop');
};

// A mail that relays goes to the outbound queue, which is on disk; none is delivered here.
exports.proceed = (next, connection) => {
  connection.relaying = true;
  next();
};

// Instead of a look-up: there is no DNS on any side.
exports.named = (next) => next(OK, 'client.example.org');

exports.accept = (next) => next(OK);

exports.next_hop = (next) => next(OK, { priority: 0, exchange: '127.0.0.1', port: ${sink} });
