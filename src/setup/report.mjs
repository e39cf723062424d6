// A reporter for vitest that writes what `npm test` counts: its own JSON reporter drops why a test was skipped.
import { writeFileSync } from 'node:fs';

/** Writes `{ passed, failed, skipped: [{ name, note? }] }` to $RACKSEED_TEST_REPORT. A file that could not be loaded, or whose hooks failed, is one failure. */
export default class Report {
  onTestRunEnd(modules) {
    const report = { passed: 0, failed: 0, skipped: [] };
    for (const module of modules) {
      let failedHere = 0;
      for (const test of module.children.allTests()) {
        const { state, note } = test.result();
        if (state === 'passed') report.passed++;
        else if (state === 'failed') failedHere++;
        else report.skipped.push({ name: test.fullName, note: note ?? (test.options.mode === 'todo' ? 'still to be written' : undefined) });
      }
      report.failed += module.state() === 'failed' ? Math.max(1, failedHere) : failedHere;
    }
    writeFileSync(process.env.RACKSEED_TEST_REPORT, JSON.stringify(report));
  }
}
