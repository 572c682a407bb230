// Refuses senders whose domain takes no mail, because nobody could ever answer them.

const next = { tag: 'next' };
const reject = (code, status, text) => ({ tag: 'reject', val: { code, status, text } });
const defer = (code, status, text) => ({ tag: 'defer', val: { code, status, text } });

// The table `config` of the plugin's entry: { "trusted": ["example.com", "bob@example.org"] }, senders that are not
// looked up.
export function readConfig(json) {
  const { trusted = [], ...others } = JSON.parse(json);
  if (Object.keys(others).length > 0) {
    throw new Error(`unknown field ${Object.keys(others)[0]}`);
  }
  if (!Array.isArray(trusted) || trusted.some((entry) => typeof entry !== 'string')) {
    throw new Error('trusted is a list of addresses and domains');
  }
  return { trusted: trusted.map((entry) => entry.toLowerCase()) };
}

// The verdict on a sender; `undefined` is the one of MAIL FROM:<>, a bounce.
export function judge(sender, config, { resolveMany, log }) {
  if (sender === undefined) {
    return next;
  }
  const address = `${sender.localPart}@${sender.domain}`.toLowerCase();
  if (config.trusted.includes(sender.domain) || config.trusted.includes(address)) {
    return next;
  }
  switch (takesMail(sender.domain, resolveMany)) {
    case true:
      return next;
    case false:
      log(`${sender.domain} takes no mail`);
      return reject(550, [1, 8], `The domain ${sender.domain} takes no mail, so nobody could answer you`);
    default:
      return defer(451, [1, 8], `The domain ${sender.domain} can't be looked up now`);
  }
}

// It has a mail exchanger or an address (RFC 5321 §5.1). `undefined`: nobody knows at the moment.
export function takesMail(domain, resolveMany) {
  if (domain.startsWith('[')) {
    // An address literal is its own host.
    return true;
  }
  const answers = resolveMany(['mx', 'a', 'aaaa'].map((kind) => ({ name: domain, kind })));
  const [exchangers] = answers;
  if (exchangers.tag === 'ok') {
    // RFC 7505: the one exchanger `.` says that it takes none, whatever addresses it has.
    return exchangers.val.val.some(({ host }) => host !== '.');
  }
  if (answers.some(({ tag }) => tag === 'ok')) {
    return true;
  }
  return answers.some(({ val }) => val === 'temporary') ? undefined : false;
}
