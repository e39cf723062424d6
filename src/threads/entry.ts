// Where the program of a worker thread is: beside its caller once compiled, in dist/ when the sources themselves run.

/**
 * `name` as in `./thread.js`, `url` the caller's import.meta.url. Under vitest the caller is a .ts below src/, which a thread of Node 20 cannot load:
 * then it is what the build before the tests (src/setup.mjs) left of it in dist/.
 */
export function threadEntry(url: string, name: string): URL {
  const beside = new URL(name, url);
  if (url.endsWith('.ts')) beside.pathname = beside.pathname.replace(/^(.*)\/src\//, '$1/dist/');
  return beside;
}
