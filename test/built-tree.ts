// The sources as plain JavaScript in a directory that every user may read, for tests whose child processes give root up or never had it.
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import ts from 'typescript';

const ROOT = new URL('../', import.meta.url).pathname;

export interface BuiltTree {
  readonly dir: string;
  /** Writes a program beside `src/` and answers its path. */
  program(name: string, text: string): string;
  remove(): void;
}

/** `parts`: the directories and files of src/ that are needed; default: all. A short list saves a second, and whoever adds an import must know of it. */
export function buildTree(parts: readonly string[] = readdirSync(join(ROOT, 'src'))): BuiltTree {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-built-'));
  chmodSync(dir, 0o755);
  const files = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts') && parts.some((part) => file === part || file.startsWith(`${part}/`)));
  for (const file of files) {
    const to = join(dir, 'src', file.replace(/\.ts$/, '.js'));
    mkdirSync(dirname(to), { recursive: true });
    const { outputText } = ts.transpileModule(readFileSync(join(ROOT, 'src', file), 'utf8'), {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, verbatimModuleSyntax: true, rewriteRelativeImportExtensions: true },
    });
    writeFileSync(to, outputText);
  }
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
  symlinkSync(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
  return {
    dir,
    program(name, text) {
      writeFileSync(join(dir, name), text);
      return join(dir, name);
    },
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}
