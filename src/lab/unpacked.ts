// Where a Debian package's file is: installed, or in the package that `npm run` unpacked beside the system (src/setup/suites.mjs).
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SHIPPED } from '../shipped.ts';

/** The path of `file` of `debianPackage`; undefined when it is neither installed nor unpacked. `beside`: SHIPPED.unpacked; for tests. */
export function placeOf(file: string, debianPackage: string, beside: string = SHIPPED.unpacked): string | undefined {
  if (existsSync(file)) return file;
  // `<suite>_<package>_<arch>`, each the root directory of one package.
  const roots = existsSync(beside) ? readdirSync(beside).filter((name) => name.split('_')[1] === debianPackage).sort() : [];
  return roots.map((name) => join(beside, name, file)).find((path) => existsSync(path));
}
