// The rule on this machine: what the gateway would give is played.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { judge, readConfig } from '../src/rule.js';

const exchangers = (...hosts) => ({
  tag: 'ok',
  val: { tag: 'exchanges', val: hosts.map((host) => ({ preference: 10, host })) },
});
const addresses = (...list) => ({ tag: 'ok', val: { tag: 'addresses', val: list } });

const zone = {
  'example.org mx': exchangers('mail.example.org'),
  'host.example.net a': addresses({ tag: 'ipv4', val: [192, 0, 2, 25] }),
  'null.example mx': exchangers('.'),
  'null.example a': addresses({ tag: 'ipv4', val: [192, 0, 2, 26] }),
  'slow.example mx': { tag: 'err', val: 'temporary' },
};

const resolveMany = (questions) =>
  questions.map(({ name, kind }) => zone[`${name} ${kind}`] ?? { tag: 'err', val: 'not-found' });

function verdict(sender, config = '{}') {
  const at = sender?.lastIndexOf('@');
  const address = sender && { localPart: sender.slice(0, at), domain: sender.slice(at + 1) };
  const { tag, val } = judge(address, readConfig(config), { resolveMany, log() {} });
  return val ? `${tag} ${val.code} ${String(val.code)[0]}.${val.status.join('.')}` : tag;
}

test('who can be answered may send', () => {
  for (const sender of [undefined, 'ann@example.org', 'root@host.example.net', 'x@[192.0.2.1]']) {
    assert.equal(verdict(sender), 'next', sender);
  }
});

test('who can not is refused', () => {
  assert.equal(verdict('ann@nowhere.example'), 'reject 550 5.1.8');
  assert.equal(verdict('ann@null.example'), 'reject 550 5.1.8');
  assert.equal(verdict('ann@slow.example'), 'defer 451 4.1.8');
});

test('who is trusted is not looked up', () => {
  assert.equal(verdict('Ann@nowhere.example', '{"trusted": ["ann@NOWHERE.example"]}'), 'next');
  assert.equal(verdict('ann@nowhere.example', '{"trusted": ["nowhere.example"]}'), 'next');
});

test('a config that is wrong says how', () => {
  assert.throws(() => readConfig('{"trustd": []}'), /unknown field trustd/);
  assert.throws(() => readConfig('{"trusted": "x"}'), /a list of addresses/);
});
