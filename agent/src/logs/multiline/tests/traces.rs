//! Traces as the runtimes print them, between ordinary lines: each is one record, by its own preset and by `auto`.

use super::{records, rule};

/// Records, each as one text, are found again in their lines one after the other, twice.
fn check(presets: &[&str], expected: &[&str]) {
    let twice: Vec<&str> = expected.iter().chain(expected).copied().collect();
    for preset in presets {
        assert_eq!(records(&rule("", preset), &twice.join("\n")), twice, "{preset}");
        // Colours, and the line ends of another system.
        let coloured: Vec<String> = twice.iter().map(|record| record.replace('\n', "\r\n") + "\r").collect();
        assert_eq!(records(&rule("", preset), &coloured.join("\n")), coloured, "{preset} with returns");
    }
}

const PLAIN: &str = "GET /health 200";

#[test]
fn java() {
    check(
        &["java", "auto"],
        &[
            PLAIN,
            r#"2026-11-21 06:12:18.123 ERROR 1 --- [nio-8080-exec-1] o.a.c.c.C.[.[.[/].[dispatcherServlet]    : Servlet.service() threw exception with root cause

java.lang.IllegalStateException: cannot load order 17
	at com.example.shop.OrderService.load(OrderService.java:42) ~[classes/:na]
	at java.base/java.lang.reflect.Method.invoke(Method.java:580)
	at com.example.shop.OrderController$$FastClassBySpringCGLIB$$1.invoke(<generated>)
	Suppressed: java.io.IOException: close failed
		at com.example.shop.Store.close(Store.java:7)
		... 2 more
Caused by: java.sql.SQLTimeoutException: query timed out
	at com.zaxxer.hikari.pool.ProxyPreparedStatement.executeQuery(ProxyPreparedStatement.java:52)
	... 63 common frames omitted
Caused by: java.net.SocketTimeoutException
	... 70 more"#,
            "2026-11-21 06:12:19.000  INFO 1 --- [main] com.example.shop.App : on we go",
            // An uncaught one, and one that is printed without a logger, behind a line that has nothing to do with it.
            "Exception in thread \"main\" java.lang.NullPointerException: Cannot invoke \"String.length()\" because \"s\" is null\n\tat Main.main(Main.java:5)",
            PLAIN,
            "java.util.concurrent.CompletionException: java.lang.RuntimeException: x\n\tat java.base/java.util.concurrent.CompletableFuture.encodeThrowable(CompletableFuture.java:315)\nCaused by: java.lang.RuntimeException: x\n\t... 1 more",
            "{\"level\":\"INFO\",\"message\":\"a line of its own\"}",
        ],
    );
}

#[test]
fn python() {
    check(
        &["python", "auto"],
        &[
            PLAIN,
            r#"2026-11-21 06:12:18,123 ERROR root: while handling
Traceback (most recent call last):
  File "/app/main.py", line 10, in load
    return 1 / 0
           ~~^~~
ZeroDivisionError: division by zero

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/main.py", line 14, in <module>
    load()
  [Previous line repeated 996 more times]
app.errors.LoadError: cannot load

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/main.py", line 20, in run
    raise RuntimeError("outer") from error
RuntimeError: outer"#,
            "INFO:root:on we go",
            "ERROR:sqlalchemy:query\nTraceback (most recent call last):\n  File \"x.py\", line 1, in f\nsqlalchemy.exc.OperationalError: (psycopg2.OperationalError) timeout\n[SQL: SELECT 1]\n[parameters: {'a': 1}]\n(Background on this error at: https://sqlalche.me/e/20/e3q8)",
            PLAIN,
            "Traceback (most recent call last):\n  File \"/app/main.py\", line 3, in <module>\n    main()\nKeyboardInterrupt",
            "Exception in thread Thread-1 (work):\nTraceback (most recent call last):\n  File \"/usr/lib/python3.12/threading.py\", line 1073, in _bootstrap_inner\n    self.run()\nValueError: bad",
            "error while in a group\n  + Exception Group Traceback (most recent call last):\n  |   File \"x.py\", line 1, in <module>\n  | ExceptionGroup: two (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n    | ValueError: 1\n    +---------------- 2 ----------------\n    | TypeError: 2\n    +------------------------------------",
            PLAIN,
        ],
    );
}

#[test]
fn go() {
    check(
        &["go", "auto"],
        &[
            PLAIN,
            "panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x48e0f6]

goroutine 1 [running]:
main.(*Server).handle(0x0, {0xc000012345, 0x5})
\t/app/server.go:10 +0x1d
main.main()
\t/app/main.go:5 +0x39

goroutine 18 [select, 5 minutes]:
net/http.(*Transport).dialConn.func1(...)
\t/usr/local/go/src/net/http/transport.go:1570
created by net/http.(*Transport).dialConn in goroutine 17
\t/usr/local/go/src/net/http/transport.go:1600 +0x2d
exit status 2",
            PLAIN,
            "2026/11/21 06:12:18 http: panic serving 10.0.0.7:51234: boom
goroutine 35 [running]:
net/http.(*conn).serve.func1()
\t/usr/local/go/src/net/http/server.go:1898 +0xbe
panic({0x6b5e00?, 0x7a5f20?})
\t/usr/local/go/src/runtime/panic.go:770 +0x132
main.main.func1({0x7a9d38?, 0xc0000ee1c0?}, 0x0?)
\t/app/main.go:9 +0x25",
            "2026/11/21 06:12:19 listening on :8080",
            "fatal error: concurrent map writes\n\ngoroutine 7 [running]:\nmain.main.func2(0x1)\n\t/app/m.go:1 +0x1",
            "panic: first [recovered]\n\tpanic: second\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/m.go:1 +0x1\nrax    0x0\nrip    0x45f3c1",
            PLAIN,
            "2026-11-21T06:12:18.123Z\tERROR\tserver/main.go:12\tcannot serve\t{\"error\": \"x\"}\nmain.(*Server).Run\n\t/app/server.go:12\nmain.main\n\t/app/main.go:8\nruntime.main\n\t/usr/local/go/src/runtime/proc.go:271",
            PLAIN,
        ],
    );
}

#[test]
fn dotnet() {
    check(
        &["dotnet", "auto"],
        &[
            PLAIN,
            r#"fail: Microsoft.AspNetCore.Server.Kestrel[13]
      Connection id "0HN8", Request id "0HN8:00000001": An unhandled exception was thrown by the application.
      System.InvalidOperationException: outer
       ---> System.ArgumentNullException: Value cannot be null. (Parameter 'x')
         at Shop.Orders.Load(String x) in /src/Orders.cs:line 10
         --- End of inner exception stack trace ---
         at Shop.Orders.Handle() in /src/Orders.cs:line 20
      --- End of stack trace from previous location ---
         at Microsoft.AspNetCore.Routing.EndpointMiddleware.Invoke(HttpContext context)"#,
            "info: Microsoft.Hosting.Lifetime[14]\n      Now listening on: http://[::]:8080",
            "[06:12:18 ERR] cannot load the order
System.AggregateException: One or more errors occurred. (inner)
 ---> System.TimeoutException: inner
   at Shop.Orders.Wait()
   --- End of inner exception stack trace ---
   at System.Threading.Tasks.Task.Wait()
---> (Inner Exception #0) System.TimeoutException: inner
   at Shop.Orders.Wait()<---",
            "[06:12:19 INF] on we go",
            "Unhandled exception. System.Exception: boom\n   at Program.<Main>$(String[] args) in /app/Program.cs:line 3\n--- End of stack trace from previous location where exception was thrown ---\n   at Program.<Main>(String[] args)",
            PLAIN,
        ],
    );
}

#[test]
fn node() {
    check(
        &["node", "auto"],
        &[
            PLAIN,
            "TypeError: Cannot read properties of undefined (reading 'x')
    at load (/app/index.js:1:2)
    at async Promise.all (index 0)
    at process.processTicksAndRejections (node:internal/process/task_queues:95:5) {
  code: 'ERR_X',
  [cause]: Error: inner
      at inner (/app/index.js:9:1)
}",
            "server listening on 3000",
            "/app/index.js:3
throw new Error('boom');
^

Error: boom
    at Object.<anonymous> (/app/index.js:3:7)

Node.js v20.11.1",
            "node:internal/modules/cjs/loader:1148
  throw err;
  ^

Error: Cannot find module './missing'
Require stack:
- /app/index.js
    at Module._resolveFilename (node:internal/modules/cjs/loader:1145:15) {
  code: 'MODULE_NOT_FOUND',
  requireStack: [ '/app/index.js' ]
}

Node.js v20.11.1",
            PLAIN,
            "2026-11-21T06:12:18Z error: request failed\nError [ERR_HTTP_HEADERS_SENT]: Cannot set headers\n    at ServerResponse.setHeader (node:_http_outgoing:652:11)",
            "{\n  status: 'ok',\n  list: [\n    1\n  ]\n}",
            "{\"level\":30,\"msg\":\"a line of its own\"}",
        ],
    );
}

#[test]
fn ruby() {
    check(
        &["ruby", "auto"],
        &[
            PLAIN,
            "/app/order.rb:10:in `load': undefined method `name' for nil:NilClass (NoMethodError)

    order.name
         ^^^^^
\tfrom /app/order.rb:5:in `block in run'
\tfrom /app/main.rb:2:in `<main>'",
            PLAIN,
            "/app/order.rb:3:in 'Integer#/': divided by 0 (ZeroDivisionError)\n\tfrom /app/order.rb:3:in 'Object#load'\n\tfrom /app/main.rb:1:in '<main>'",
            "F, [2026-11-21T06:12:18.123 #1] FATAL -- : request\nNoMethodError (undefined method `name' for nil:NilClass):\n  \napp/controllers/orders_controller.rb:10:in `show'\nlib/middleware.rb:7:in `call'",
            "I, [2026-11-21T06:12:19.000 #1]  INFO -- : Completed 500 in 3ms",
            "E, [2026-11-21T06:12:18.123 #1] ERROR -- : job\nActiveRecord::RecordNotFound: Couldn't find Order with 'id'=7\n\tfrom /app/job.rb:3:in `perform'",
            PLAIN,
        ],
    );
}

#[test]
fn ordinary_lines_are_each_a_record_by_every_preset() {
    let lines = [
        "2026-11-21 06:12:18 INFO starting",
        "I1121 06:12:18.123456       1 main.go:10] \"msg\" err=\"java.lang.X: no\"",
        "10.0.0.1 - - [21/Nov/2026:06:12:18 +0000] \"GET / HTTP/1.1\" 200 612 \"-\" \"curl/8\"",
        "{\"level\":\"error\",\"msg\":\"x\",\"stack\":\"Error: x\\n    at y\"}",
        "level=error msg=\"at the end\" err=EOF",
        "at last, a line that begins with a small word",
        "Error rate is 3%",
        "panic mode is off",
        "-----",
        "com.example.shop.Main started",
        "com.example.shop.Main.run(Main.java)",
        "done.",
        "",
        "",
        "[error] x",
    ];
    for preset in super::PRESETS {
        assert_eq!(records(&rule("", preset), &lines.join("\n")), lines, "{preset}");
    }
}

/// What programs that are none of these languages write, and what these write on an ordinary day: each line is a record.
const ORDINARY: [&str; 6] = [
    // Proxies and web servers.
    "10.0.0.1 - - [21/Nov/2026:06:12:18 +0000] \"GET /error?x=Exception HTTP/1.1\" 500 612 \"-\" \"curl/8\"
2026/11/21 06:12:18 [error] 29#29: *1 connect() failed (111: Connection refused) while connecting to upstream
2026/11/21 06:12:18 [notice] 1#1: signal 17 (SIGCHLD) received from 35
[2026-11-21T06:12:18.123Z] \"GET / HTTP/1.1\" 503 UF \"-\" 0 91 3 - \"-\" \"curl/8\" \"a-b\" \"shop\" \"-\"
[2026-11-21 06:12:18.123][1][warning][config] [source/server.cc:715] upstream error
AH00558: httpd: Could not reliably determine the server's fully qualified domain name
[Sat Nov 21 06:12:18.1 2026] [core:error] [pid 1:tid 2] AH00037: link not allowed",
    // Databases and queues.
    "2026-11-21 06:12:18.123 UTC [71] ERROR:  relation \"x\" does not exist at character 15
2026-11-21 06:12:18.123 UTC [71] STATEMENT:  SELECT 1 FROM x
1:M 21 Nov 2026 06:12:18.123 # Error condition on socket for SYNC: Connection refused
1:C 21 Nov 2026 06:12:18.123 * Redis version=7.2.4, bits=64
2026-11-21T06:12:18.123456Z 0 [ERROR] [MY-010119] [Server] Aborting
2026-11-21T06:12:18.123456Z 0 [Warning] [MY-010068] [Server] CA certificate ca.pem is self signed.
{\"t\":{\"$date\":\"2026-11-21T06:12:18.123+00:00\"},\"s\":\"E\",\"c\":\"NETWORK\",\"msg\":\"Error: x\"}
[2026-11-21 06:12:18,123] ERROR [KafkaServer id=0] Fatal error during startup (kafka.server.KafkaServer)
[2026-11-21 06:12:18,123] INFO shutting down (kafka.server.KafkaServer)",
    // Kubernetes.
    "E1121 06:12:18.123456       1 reflector.go:147] k8s.io/client-go: Failed to watch *v1.Pod: x
I1121 06:12:18.123456       1 main.go:10] \"Starting\" err=\"java.lang.X: no\"
{\"level\":\"warn\",\"ts\":\"2026-11-21T06:12:18.123Z\",\"caller\":\"etcdserver/util.go:170\",\"msg\":\"apply request took too long\"}
[ERROR] plugin/errors: 2 example.com. A: read udp 10.0.0.1:1->10.0.0.2:53: i/o timeout
[INFO] 10.0.0.1:1 - 1 \"A IN example.com. udp 30 false 512\" NOERROR qr,aa,rd 58 0.0001s
time=\"2026-11-21T06:12:18Z\" level=error msg=\"panic: no\" error=\"goroutine 1 [running]:\"
2026-11-21T06:12:18.123Z\tERROR\tcontroller\tReconciler error\t{\"error\": \"x\"}
2026-11-21T06:12:19.123Z\tINFO\tcontroller\tStarting workers",
    // Lists below a line that says ERROR: hosts, files, images, addresses.
    "ERROR cannot reach these:
example.com
db.shop.svc.cluster.local
conf/app.yaml
docker.io/library/nginx
registry.k8s.io/pause:3.9
fe80::1: unreachable
FE80::1: unreachable
/var/log/app.log:12
/dev/sda1:80
index.html
done.",
    // A level alone does not make the next line an exception.
    "INFO ready
Error: this was printed by another part
INFO ready
java.lang.Runtime: 17
INFO ready
main.go
INFO ready
ActiveRecord::Base: connected
DEBUG ready
System.Exception: printed by another part",
    // Scripts.
    "+ echo at
at 06:12 the job began
Caused by an operator
panic mode is off
---
=== RUN   TestX
--- PASS: TestX (0.00s)
PASS
[1/2] building
[2/2] building
* item
- item
# comment
> quoted
(1 row)
from app.rb
Traceback is empty
goroutine count: 7
error: could not compile
warning: unused variable",
];

#[test]
fn auto_joins_no_lines_of_ordinary_logs() {
    for text in ORDINARY {
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(records(&rule("", "auto"), text), lines);
    }
    // Nor where one program's lines come between another's.
    let mixed: Vec<&str> = (0..20)
        .flat_map(|at| ORDINARY.iter().filter_map(move |text| text.split('\n').nth(at)))
        .filter(|line| {
            !line.starts_with("java.lang") && !line.starts_with("System.") && !line.starts_with("Error:")
        })
        .filter(|line| !line.starts_with("ActiveRecord"))
        .collect();
    assert_eq!(records(&rule("", "auto"), &mixed.join("\n")), mixed);
}
