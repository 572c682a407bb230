// What the gateway calls, and what it gives. The rule itself is in rule.js, which knows nothing of the gateway.
import { json } from 'postern:plugin/config@0.1.0';
import { resolveMany } from 'postern:plugin/dns@0.1.0';
import { write } from 'postern:plugin/log@0.1.0';

import { judge, readConfig } from './rule.js';

// The gateway learns only that an exception was not caught: what and where it was must be written down here.
const logged = (stage) => (...handles) => {
  try {
    return stage(...handles);
  } catch (error) {
    write('error', `${error}\n${error?.stack}`);
    throw error;
  }
};

export const onLoad = {
  // An exception with a text keeps the plugin from being loaded, and the administrator reads it.
  check() {
    try {
      readConfig(json());
    } catch (error) {
      throw String(error.message);
    }
  },
};

export const onMailFrom = {
  judge: logged((session, message) => {
    const log = (text) => write('info', text);
    return judge(message.reversePath(), readConfig(json()), { resolveMany, log });
  }),
};
