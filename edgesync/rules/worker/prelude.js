(function () {
  "use strict";
  var RealDate = Date, now = 0, seed = 1;
  function Shown(...args) {
    if (!new.target) return new RealDate(now).toString();
    return Reflect.construct(RealDate, args.length ? args : [now], new.target);
  }
  Shown.prototype = RealDate.prototype;
  Shown.now = function () { return now; };
  Shown.parse = RealDate.parse;
  Shown.UTC = RealDate.UTC;
  RealDate.prototype.constructor = Shown;
  globalThis.Date = Shown;
  // The same message gives the same numbers: what ran can be run again.
  Math.random = function () { seed = seed * 16807 % 2147483647; return (seed - 1) / 2147483646; };
  globalThis.console = { log() {}, error() {}, warn() {}, info() {}, debug() {} };
  var parse = JSON.parse, stringify = JSON.stringify;
  globalThis.__call = function (run, json, at) {
    now = at;
    seed = at % 2147483646 + 1;
    var result = run.apply(undefined, parse(json));
    return result === undefined ? "null" : stringify(result);
  };
})();
