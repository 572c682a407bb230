// Makes house-rules.wasm of src/plugin.js. A plugin has no files, sockets, clocks or standard output: what of the
// JavaScript engine would import them from WASI is left out, and the gateway would not load it with them.
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { componentize } from '@bytecodealliance/componentize-js';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const { component } = await componentize({
  sourcePath: here('src/plugin.js'),
  witPath: here('wit'),
  worldName: 'plugin',
  disableFeatures: ['http', 'fetch-event', 'stdio', 'random', 'clocks'],
});
await writeFile(here('house-rules.wasm'), component);
console.log(`house-rules.wasm: ${component.length} octets`);
